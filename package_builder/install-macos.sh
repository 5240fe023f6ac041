#!/bin/sh
# Installs ctllm on macOS for the present user: the daemon, the command ctllm and the icon in the menu bar.
#   sh install-macos.sh ctllm-0.1.0-py3-none-any.whl      (again with a newer file to upgrade)
#   sh install-macos.sh --remove
# It installs uv (https://docs.astral.sh/uv/) with Homebrew if it is missing.
set -eu

stop() {
  echo "install-macos.sh: $1" >&2
  exit 1
}

[ "$(uname -s)" = Darwin ] || stop "this is for macOS; for other systems see docs/install.md"
[ "$(id -u)" != 0 ] || stop "run it as yourself, not as root"
[ $# = 1 ] || stop "usage: sh install-macos.sh WHEEL | --remove"
export PATH="$HOME/.local/bin:$PATH"

if [ "$1" = --remove ]; then
  ctllm autostart off
  uv tool uninstall ctllm
  echo "Removed. Your login and keys are still in ~/.local/state/ctllm."
  exit
fi

[ -f "$1" ] || stop "$1: there is no such file"
wheel=$(cd "$(dirname "$1")" && pwd)/$(basename "$1")
if ! command -v uv >/dev/null; then
  command -v brew >/dev/null || stop "install uv first: https://docs.astral.sh/uv/getting-started/installation/"
  brew install uv
fi
uv tool install --force --with-executables-from twisted "ctllm[tray] @ file://$wheel"
uv tool update-shell
ctllm autostart on
echo "Installed. Open a new terminal, then: ctllm login https://the-address-of-your-cloud"
