"""Runtimes: everything that is known about a runtime, a folder each."""
