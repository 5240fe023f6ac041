/** Definitions of links, which may follow their use. */
import type {Address} from './address';

type Listener = (address: Address) => void;

const MAX_DEFINITIONS = 2000;

export class References {
  readonly #defined = new Map<string, Address>();
  readonly #waiting = new Map<string, Set<Listener>>();

  /** Defines a label, unless it is defined already. */
  define(label: string, address: Address): void {
    if (this.#defined.has(label) || this.#defined.size >= MAX_DEFINITIONS) return;
    this.#defined.set(label, address);
    for (const listener of this.#waiting.get(label) ?? []) listener(address);
    this.#waiting.delete(label);
  }

  get(label: string): Address | null {
    return this.#defined.get(label) ?? null;
  }

  /** Calls `listener` when the label is defined. Returns what ends the wait. */
  await(label: string, listener: Listener): () => void {
    const waiting = this.#waiting.get(label) ?? new Set();
    this.#waiting.set(label, waiting.add(listener));
    return () => {
      waiting.delete(listener);
      if (waiting.size === 0 && this.#waiting.get(label) === waiting) this.#waiting.delete(label);
    };
  }
}
