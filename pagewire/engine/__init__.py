"""The role-blind engine: sequences, pages, scheduler, model, sampler. Knows no socket, no text and no role."""
