"""The Experiment tab: base model, data, methods, what each will cost; launch, and the queue."""
