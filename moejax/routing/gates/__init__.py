"""What a gate makes of a token: one score per expert, in float32 or better. Routers choose by it; `theory` studies its estimation."""
