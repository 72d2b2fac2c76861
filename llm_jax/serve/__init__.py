"""The HTTP server: OpenAI's interface and a chat page, in front of engines that many clients share."""
