"""GGUF: llama.cpp's file format and the quantizations in it."""
