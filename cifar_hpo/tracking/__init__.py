"""MLflow: what is written of studies and attempts, and how it is read again."""
