// Applies theme and text size before the first paint: a script of its own, because the policy of the page
// forbids scripts in it. src/settings/preferences.ts writes what this reads.
try {
  const {theme, textSize} = JSON.parse(localStorage.getItem('ctllm.preferences') ?? '{}');
  const {dataset} = document.documentElement;
  if (theme === 'light' || theme === 'dark') dataset.theme = theme;
  if (textSize === 'small' || textSize === 'large' || textSize === 'largest') dataset.textSize = textSize;
} catch {
  // Nothing readable is stored, or the browser forbids to store anything: the system decides.
}
