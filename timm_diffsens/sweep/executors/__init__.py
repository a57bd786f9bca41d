"""Where the jobs of a sweep are done, each registered by its file: a class with what `Executor` asks for."""
