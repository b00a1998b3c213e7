"""Ask the decoding loop in one line."""

from ladderlm.generation.engine import GenerationRequest, generate_tokens


def generate(
    model,
    prompts,
    max_new_tokens,
    sampling,
    stop_ids,
    should_stop=lambda: False,
    watch=None,
    **more,
):
    """Continue prompts; arguments as in `GenerationRequest` and `generate_tokens`."""
    request = GenerationRequest(
        max_new_tokens=max_new_tokens, sampling=sampling, stop_ids=stop_ids, **more
    )
    return generate_tokens(model, prompts, request, should_stop, watch)
