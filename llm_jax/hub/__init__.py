"""To and from Hugging Face folders and GGUF files."""
