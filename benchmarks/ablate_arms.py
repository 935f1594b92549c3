"""The arms of ablate.py: each rule off alone, and the ladder from the guard of 30 November to today's."""

from dataclasses import replace

from ablate_guard import Rules

TODAY = Rules()
ARMS: dict[str, Rules | None] = {
    "no guard": None,
    "today": TODAY,
    "plain distances": Rules(axes=False),
    "no limit to the bandwidth": Rules(widest=False),
    "one bandwidth": Rules(plain_target=False),
    "target by x_t alone": Rules(target_at="x_t"),
    "target by x0 alone": Rules(target_at="x0"),
    "no latch": Rules(latch=False),
    "release: stop at log-SNR 0": Rules(release="stop"),
    "release: never": Rules(release="never"),
    "every benign latent a target": Rules(aims=False),
    "no repulsion": Rules(repulsion=0.0),
    "target not sharper at few steps": Rules(sharp=False),
    "no leaning at few steps": Rules(lean=False),
    "one rate, 0.5 %": Rules(rate=0.005),
    "one rate, 1 %": Rules(rate=0.01),
    "one scale for all levels": Rules(scale=False),
    "linear in log-SNR": Rules(levels="log-snr"),
}
FEW = replace(TODAY, sharp=False, lean=False)
RATE = replace(FEW, rate=0.005)
WIDTH = replace(RATE, widest=False)
NOISY = replace(WIDTH, target_at="x_t", plain_target=False)
STOP = replace(NOISY, release="stop")
SCALE = replace(STOP, scale=False)
SHIPPED = replace(SCALE, release="gate")
LADDER: dict[str, Rules | None] = {
    "1: no rules for few steps": FEW,
    "2: and one rate, 0.5 %": RATE,
    "3: and no limit to the bandwidth": WIDTH,
    "4: and the target by x_t alone": NOISY,
    "5: and release: stop at log-SNR 0": STOP,
    "6: and one scale for all levels": SCALE,
    "7: but an open gate acts at every level (the package's)": SHIPPED,
}
NEXT: dict[str, Rules | None] = {
    "5, but every benign latent a target": replace(STOP, aims=False),
    "5, but plain distances": replace(STOP, axes=False),
    "5, but no repulsion": replace(STOP, repulsion=0.0),
    "5, but no latch": replace(STOP, latch=False),
}
ARMS |= LADDER | NEXT
