"""The unit tests, for trial."""

from hypothesis import HealthCheck, settings

# The tests run beside others on a busy machine, where the time of a test means nothing.
settings.register_profile("ctllm", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ctllm")
