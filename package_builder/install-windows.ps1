# Installs ctllm on Windows for the present user: the daemon, the command ctllm and the tray icon.
#   powershell -ExecutionPolicy Bypass -File install-windows.ps1 ctllm-0.1.0-py3-none-any.whl
#   powershell -ExecutionPolicy Bypass -File install-windows.ps1 -Remove
# Run it again with a newer file to upgrade. It installs uv (https://docs.astral.sh/uv/) with winget if it
# is missing.
param(
    [Parameter(Position = 0)][string] $Wheel,
    [switch] $Remove
)
$ErrorActionPreference = "Stop"

function Invoke-Program {
    # PowerShell does not stop by itself when a program fails.
    param([string] $Program, [string[]] $Arguments)
    & $Program @Arguments
    if ($LASTEXITCODE -ne 0) { throw "$Program $Arguments failed with status $LASTEXITCODE" }
}

function Stop-Ctllm {
    # Windows does not remove the files of a running program: uv would leave half an installation.
    $folder = (Join-Path (& uv tool dir) "ctllm") + "\"
    $running = Get-CimInstance Win32_Process | Where-Object {
        $_.ProcessId -ne $PID -and $_.CommandLine -and $_.CommandLine.Contains($folder)
    }
    foreach ($process in $running) {
        Stop-Process -Id $process.ProcessId -Force -ErrorAction SilentlyContinue
        Wait-Process -Id $process.ProcessId -Timeout 30 -ErrorAction SilentlyContinue
    }
}

$env:PATH = "$HOME\.local\bin;$env:PATH"

if ($Remove) {
    Invoke-Program "ctllm" @("autostart", "off")
    Stop-Ctllm
    Invoke-Program "uv" @("tool", "uninstall", "ctllm")
    Write-Output "Removed. Your login and keys are still in $HOME\.local\state\ctllm."
    exit 0
}

if (-not $Wheel) { throw "Usage: install-windows.ps1 WHEEL, or install-windows.ps1 -Remove" }
$file = Get-Item -LiteralPath $Wheel
if (-not (Get-Command "uv" -ErrorAction SilentlyContinue)) {
    Invoke-Program "winget" @("install", "--id", "astral-sh.uv", "--exact")
    $env:PATH = "$env:LOCALAPPDATA\Microsoft\WinGet\Links;$env:PATH"
}
Stop-Ctllm
$address = ([System.Uri] $file.FullName).AbsoluteUri
Invoke-Program "uv" @("tool", "install", "--force", "--with-executables-from", "twisted", "ctllm[tray] @ $address")
Invoke-Program "uv" @("tool", "update-shell")
Invoke-Program "ctllm" @("autostart", "on")
Write-Output "Installed. Open a new terminal, then: ctllm login https://the-address-of-your-cloud"
