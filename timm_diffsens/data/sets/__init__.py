"""The built-in data sets, each registered by its file: a function `Request` -> `ImageSource`."""
