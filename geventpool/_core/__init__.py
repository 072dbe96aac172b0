"""The parts of the pool that are private: import none of them elsewhere."""
