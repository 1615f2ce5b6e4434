"""What is asked of the provider, and when: what an answer is good for, and when the next one is worth a request."""
