"""To and from Hugging Face folders."""
