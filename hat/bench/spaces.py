"""The spaces the figures are taken in, written out so that a figure does not move with a file of configs/."""

from hat.space import DecoderSpace, EncoderSpace, SearchSpace

MULTI30K = SearchSpace(  # configs/multi30k.en-de/supertransformer/space0.yml
    EncoderSpace(256, 1024, 3, (256, 192), (1024, 512, 256), (3, 2), (4, 2)),
    DecoderSpace(256, 1024, 3, (256, 192), (1024, 512, 256), (3, 2, 1), (4, 2), (4, 2), (1, 2, 3)),
    qkv_dim=256,
)
WMT14 = SearchSpace(  # configs/wmt14.en-de/supertransformer/space0.yml
    EncoderSpace(640, 3072, 6, (640, 512), (3072, 2048, 1024), (6,), (8, 4)),
    DecoderSpace(640, 3072, 6, (640, 512), (3072, 2048, 1024), (6, 5, 4, 3, 2, 1), (8, 4), (8, 4), (1, 2, 3)),
    qkv_dim=512,
)
