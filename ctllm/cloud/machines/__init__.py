"""Machines whose `ollama` command signs its requests: their verification and their API."""

from ctllm.cloud.machines.api import MachineApi
from ctllm.cloud.machines.verifier import MachineVerifier

__all__ = ["MachineApi", "MachineVerifier"]
