"""Makes ``twistd ctllm`` known to Twisted."""

from twisted.application.service import ServiceMaker

ctllm = ServiceMaker(  # type: ignore[no-untyped-call]
    "ctllm",
    "ctllm.tap",
    "Use the models on your own machine from anywhere (desktop, cloud, proxy, all)",
    "ctllm",
)
