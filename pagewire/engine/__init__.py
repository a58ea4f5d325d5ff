"""The role-blind engine: sequences, pages, scheduler, model, sampler. Knows no socket, text or role."""
