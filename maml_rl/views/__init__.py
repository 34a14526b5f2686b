"""What people look at: plots, figures, videos, reports."""
