"""The Experiment tab: base model, data, methods, predicted costs, launch, and the queue."""
