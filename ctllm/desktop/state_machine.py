"""State machines of automat, built from a table that tests and drawings can read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import TypeVar

from automat import TypeMachineBuilder

Inputs = TypeVar("Inputs")
Core = TypeVar("Core")
State = TypeVar("State", bound=Enum)

#: For each state, the state that an input leads to. Any other input changes nothing.
Table = Mapping[State, Mapping[str, State]]


def build_machine(
    inputs: type[Inputs],
    core: type[Core],
    table: Table[State],
    action_for: Callable[[State, str, State], Callable[..., None]],
) -> Callable[[Core], Inputs]:
    """Return a factory of machines for `table`, which start in its first state.

    `inputs` is a Protocol, whose methods are the inputs. `action_for` returns what a transition
    runs, given the old state, the input and the new state; it is called with the core and the
    input's arguments. An input that arrives during an action is applied after it.
    """
    builder = TypeMachineBuilder(inputs, core)
    states = {state: builder.state(str(state.value)) for state in table}
    names = [name for name in vars(inputs) if not name.startswith("_")]
    for state, row in table.items():
        unknown = set(row).difference(names)
        assert not unknown, f"{inputs.__name__} has no input {unknown}"
        for name in names:
            upon = states[state].upon(getattr(inputs, name))
            if name not in row:
                upon.loop().returns(None)
            else:
                upon.to(states[row[name]])(_output(action_for(state, name, row[name])))
    return builder.build()


def _output(action: Callable[..., None]) -> Callable[..., None]:
    def output(machine: object, core: object, *args: object) -> None:
        action(core, *args)

    return output
