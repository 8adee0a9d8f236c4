"""MLflow as a view of the records. Only this folder imports mlflow."""
