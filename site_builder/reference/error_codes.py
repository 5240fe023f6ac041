"""The reference of error codes, from the classes of `ctllm.errors`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from ctllm import errors
from site_builder.reference.markdown import code, escape, table


def render_error_codes() -> str:
    """Return a table of the codes that programs may meet."""
    rows = [
        (code(each.code), str(each.status), escape(_first_sentence(inspect.getdoc(each) or "")))
        for each in sorted(_classes(), key=lambda each: each.code)
    ]
    return table(("Code", "HTTP status", "Meaning"), rows)


def _first_sentence(text: str) -> str:
    sentence, end, _ = " ".join(text.split()).partition(". ")
    return sentence + end.strip()


def _classes() -> Iterator[type[errors.CtllmError]]:
    seen = {errors.CtllmError.code}
    for each in vars(errors).values():
        if isinstance(each, type) and issubclass(each, errors.CtllmError) and each.code not in seen:
            seen.add(each.code)
            yield each
