/** The title of the document. */

/** Returns the title of the document. */
export function formatTitle(title: string, isBusy: boolean): string {
  const name = title ? `${title} · ctllm` : 'ctllm';
  return isBusy ? `● ${name}` : name;
}
