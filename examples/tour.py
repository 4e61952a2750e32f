# %% [markdown]
# # HAT from two lists of sentences to a translator for this machine
# Run it as a script (`python examples/tour.py`, about three minutes on two cores) or open it as a notebook.

# %% Two lists of sentences, here generated; your own are as good
import hat

PAIRS, UPDATES, ROWS = 4000, 500, 60
english, german = zip(*hat.toy_pairs(seed=1, count=PAIRS), strict=True)
data = hat.Dataset.from_text(english, german, source_lang="en", target_lang="de", pieces=600)

# %% A SuperTransformer holds every architecture of a search space in one set of weights
config = "configs/toy.en-de/supertransformer/space0.yml"
space = hat.SearchSpace.from_yaml(config)
recipe = hat.TrainConfig.from_yaml(config, max_update=UPDATES)
supernet = hat.fit(space, data, recipe, progress=True).model

# %% Latencies of random architectures on this machine teach a predictor
table = hat.collect(space, ROWS, dataset=data, config=hat.MeasureConfig(source_len=12, target_len=12))
predictor = hat.LatencyPredictor.fit(table)

# %% Search: the lowest validation loss whose latency stays below the limit
fastest, slowest = (predictor.predict_ms(arch) for arch in (space.smallest(), space.largest()))
limit_ms = (fastest + slowest) / 2
search = hat.SearchConfig(evo_iter=4)
found = hat.search(supernet, data, predictor, [limit_ms], config=search, out="runs/tour")
winner = found.winners[limit_ms]
print(f"limit {limit_ms:.1f} ms, predicted {winner.predicted_ms:.1f}, measured {winner.measured_ms} ms")

# %% The architecture found, cut out of the SuperTransformer, is trained on as the small model it is
model = hat.fit(winner.arch, data, recipe, space=space, init=supernet.extract(winner.arch)).model
print(model.translate(["the small dog sees a red house ."]))

# %% A page about the search
print(hat.report("runs/tour"))
