"""A server that speaks OpenAI's API, with a memory for each user; needs the extra `server`."""
