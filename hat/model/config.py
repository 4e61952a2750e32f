"""Options of the Transformer that are the same for the whole search space."""

from dataclasses import dataclass

from hat.errors import ConfigError

MAX_POSITIONS = 1 << 16  # no weight proves the number in a file, and the table takes memory for each
PAD, EOS = 1, 2  # ids fixed by the dictionary format


@dataclass(frozen=True)
class ModelConfig:
    """Model"""

    dropout: float = 0.1
    """dropout on embeddings and residual branches, at the super width; narrower slices use less"""
    attention_dropout: float = 0.0
    """dropout on attention weights"""
    activation_dropout: float = 0.0
    """dropout after the ReLU, at the super width"""
    share_all_embeddings: bool = False
    """one matrix for source embedding, target embedding and output (needs a joint dictionary)"""
    share_decoder_input_output_embed: bool = False
    """one matrix for target embedding and output"""
    encoder_normalize_before: bool = False
    """normalise before each encoder block instead of after it"""
    decoder_normalize_before: bool = False
    """normalise before each decoder block instead of after it"""
    vocab_original_scaling: bool = False
    """scale embeddings by the root of the super width instead of the sampled one"""
    max_source_positions: int = 1024
    """longest source sentence in tokens"""
    max_target_positions: int = 1024
    """longest target sentence in tokens"""

    @property
    def structure(self) -> dict[str, bool]:
        """Return what weights depend on, by its key; sharing all embeddings shares those of the decoder."""
        return {
            "share-all-embeddings": self.share_all_embeddings,
            "share-decoder-input-output-embed": self.share_all_embeddings
            or self.share_decoder_input_output_embed,
            "encoder-normalize-before": self.encoder_normalize_before,
            "decoder-normalize-before": self.decoder_normalize_before,
            "vocab-original-scaling": self.vocab_original_scaling,
        }

    def __post_init__(self) -> None:
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            rate = getattr(self, name)
            if not 0 <= rate < 1:
                raise ConfigError(f"--{name.replace('_', '-')} must be at least 0 and below 1, got {rate}")
        for name in ("max_source_positions", "max_target_positions"):
            if not 2 <= getattr(self, name) <= MAX_POSITIONS:
                raise ConfigError(
                    f"--{name.replace('_', '-')} must be 2 to {MAX_POSITIONS}, got {getattr(self, name)}"
                )
