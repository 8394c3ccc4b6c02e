"""The Plan tab: predicts the cost of fine-tuning any model from its config alone."""
