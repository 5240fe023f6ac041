/** The operating system that instructions are for. */

export const SYSTEMS = ['linux', 'macos', 'windows'] as const;
export type System = (typeof SYSTEMS)[number];

export const SYSTEM_NAMES: Readonly<Record<System, string>> = {linux: 'Linux', macos: 'macOS', windows: 'Windows'};

/** Returns the system of a browser by its user agent. A phone runs no desktop: then Linux is as good a guess as any. */
export function detectSystem(userAgent: string): System {
  if (/iPhone|iPad|Android/i.test(userAgent)) return 'linux';
  if (/Windows/i.test(userAgent)) return 'windows';
  return /Mac OS|Macintosh/i.test(userAgent) ? 'macos' : 'linux';
}

const WHEEL = 'ctllm-0.1.0-py3-none-any.whl';
const POSIX_INSTALL = `python3 -m venv ~/.local/lib/ctllm && ~/.local/lib/ctllm/bin/pip install ${WHEEL}`;
const POSIX_PATH = 'export PATH=~/.local/lib/ctllm/bin:$PATH';

/** Commands that install ctllm. */
export const INSTALL: Readonly<Record<System, string>> = {
  linux: `${POSIX_INSTALL}\n${POSIX_PATH}`,
  macos: `${POSIX_INSTALL}\n${POSIX_PATH}`,
  windows: `py -m venv %LOCALAPPDATA%\\ctllm && %LOCALAPPDATA%\\ctllm\\Scripts\\pip install ${WHEEL}\nset PATH=%LOCALAPPDATA%\\ctllm\\Scripts;%PATH%`,
};

/** Keeps the desktop running, now and after the next login to the system. */
export const RUN: Readonly<Record<System, string>> = {
  linux: 'ctllm autostart on\ntwistd -n ctllm desktop',
  macos: 'twistd -n ctllm desktop',
  windows: 'twistd -n ctllm desktop',
};

export const UPDATE: Readonly<Record<System, string>> = {
  linux: `~/.local/lib/ctllm/bin/pip install --upgrade ${WHEEL}`,
  macos: `~/.local/lib/ctllm/bin/pip install --upgrade ${WHEEL}`,
  windows: `%LOCALAPPDATA%\\ctllm\\Scripts\\pip install --upgrade ${WHEEL}`,
};

/** Starts Ollama where it is installed. */
export const START_OLLAMA: Readonly<Record<System, string>> = {
  linux: 'sudo systemctl start ollama || ollama serve',
  macos: 'open -a Ollama',
  windows: 'start "" "%LOCALAPPDATA%\\Programs\\Ollama\\ollama app.exe"',
};

export const INSTALL_OLLAMA: Readonly<Record<System, string>> = {
  linux: 'curl -fsSL https://ollama.com/install.sh | sh',
  macos: 'brew install --cask ollama && open -a Ollama',
  windows: 'winget install Ollama.Ollama',
};
