"""What a model's text says: thinking, calls of tools, and words for the reader.

Pure machines over text that arrives in pieces; what they give, joined, does not depend on how it was cut.
"""
