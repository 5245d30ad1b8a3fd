"""Plain functions that the walker's tests carry policies into."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

VOCABULARY, WIDTH, LAYERS, HEADS, TOKENS, BATCH = 64, 32, 2, 2, 16, 4


def drawn_from(key):
    """Draws normal numbers by NumPy: those of jax.random are compiled anew for each shape."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return lambda *shape, scale: jnp.asarray(rng.normal(scale=scale, size=shape), jnp.float32)


def mlp_init(key):
    normal = drawn_from(key)
    return {
        "hidden": {"kernel": normal(24, 80, scale=1 / 5), "bias": jnp.zeros(80)},
        "out": {"kernel": normal(80, 10, scale=1 / 9), "bias": jnp.zeros(10)},
    }


def mlp(params, x):
    for name in ("hidden", "out"):
        x = x @ params[name]["kernel"] + params[name]["bias"]
        if name == "hidden":
            x = jax.nn.relu(x)
    return x


def cross_entropy(logits, labels):
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, labels[..., None], axis=-1).mean()


def decoder_init(key):
    draw = drawn_from(key)

    def normal(*shape):
        return draw(*shape, scale=shape[-2] ** -0.5)

    layers, width = LAYERS, WIDTH
    return {
        "embed": normal(VOCABULARY, width),
        "head": normal(width, VOCABULARY),
        "norm": jnp.ones(width),
        "blocks": {
            "qkv": normal(layers, width, 3 * width),
            "out": normal(layers, width, width),
            "up": normal(layers, width, 4 * width),
            "down": normal(layers, 4 * width, width),
            "bias": jnp.zeros((layers, 4 * width)),
            "norm1": jnp.ones((layers, width)),
            "norm2": jnp.ones((layers, width)),
        },
    }


def rms_norm(x, weight):
    return x * lax.rsqrt(jnp.mean(x**2, axis=-1, keepdims=True) + 1e-6) * weight


def decoder_block(h, p):
    q, k, v = jnp.split(rms_norm(h, p["norm1"]) @ p["qkv"], 3, axis=-1)
    heads = (*h.shape[:-1], HEADS, WIDTH // HEADS)
    q, k, v = (t.reshape(heads) for t in (q, k, v))
    scores = jnp.einsum("bthd,bshd->bhts", q, k) * np.float32((WIDTH // HEADS) ** -0.5)
    causal = jnp.tril(jnp.ones((TOKENS, TOKENS), bool))
    scores = jnp.where(causal, scores, jnp.finfo(scores.dtype).min)
    mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores), v).reshape(h.shape)
    h = h + mixed @ p["out"]
    x = rms_norm(h, p["norm2"])
    return h + jax.nn.gelu(x @ p["up"] + p["bias"]) @ p["down"]


def decoder_loss(params, tokens, *, layers="scan"):
    h = params["embed"][tokens]
    step = lambda h, p: (decoder_block(h, p), None)  # noqa: E731
    if layers == "unrolled":
        for i in range(LAYERS):
            h = decoder_block(h, jax.tree.map(lambda leaf, i=i: leaf[i], params["blocks"]))
    else:
        step = jax.checkpoint(step) if layers == "remat" else step
        h, _ = lax.scan(step, h, params["blocks"])
    logits = rms_norm(h, params["norm"]) @ params["head"]
    return cross_entropy(logits[:, :-1], tokens[:, 1:])


def decoder_batch(key):
    return jax.random.randint(key, (BATCH, TOKENS), 0, VOCABULARY)


def decode_init(key):
    """A recurrent language model of one layer."""
    normal = drawn_from(key)
    shapes = {"embed": (VOCABULARY, WIDTH), "step": (WIDTH, WIDTH), "head": (WIDTH, VOCABULARY)}
    return {name: normal(*shape, scale=1 / 4) for name, shape in shapes.items()}


def decode(params, token, *, length=8, end=0):
    """Greedy decoding up to `length` tokens or the token `end`, and their log-probability.

    Every other token is drawn from a colder distribution, so that a cond has something to do.
    """

    def running(carry):
        count, tokens, _, _ = carry
        return (count < length) & (tokens[count - 1] != end)

    def step(carry):
        count, tokens, h, score = carry
        h = jnp.tanh(rms_norm(h @ params["step"], 1.0) + params["embed"][tokens[count - 1]])
        logits = h @ params["head"]
        logits = lax.cond(count % 2 == 0, lambda x: x, lambda x: x / 0.7, logits)
        log_p = jax.nn.log_softmax(logits)
        token = jnp.argmax(log_p)
        return count + 1, tokens.at[count].set(token), h, score + log_p[token]

    tokens = jnp.zeros(length, token.dtype).at[0].set(token)
    start = jnp.int32(1), tokens, jnp.zeros(WIDTH), jnp.float32(0)
    count, tokens, h, score = lax.while_loop(running, step, start)
    return tokens, count, h, score
