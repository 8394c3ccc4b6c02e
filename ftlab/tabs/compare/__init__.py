"""The Compare tab: a sweep's figures, the savings card, the report, and the cost of serving."""
