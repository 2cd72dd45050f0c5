"""What is recorded while a run lasts: watches, metrics, spans, the ledger; and how each says that it could not see."""
