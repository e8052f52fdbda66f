"""Models behind one interface: our own, general models in process or behind an OpenAI-compatible server, and two-step flows."""
