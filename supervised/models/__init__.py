"""Networks as functions of parameters stacked over tasks, and the file that holds parameters."""
