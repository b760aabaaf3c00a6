"""Running an artifact: files, executors, states, sampling, generation. Needs neither the compiler nor transformers."""
