"""ctllm: use the models on your own machine from anywhere."""

__version__ = "0.1.0"
