"""``brainseg-tf models``."""

from typing import Any

import click


@click.command(short_help="List the shipped models.")
def models() -> None:
    """List the shipped models with size, modalities, training data, accuracy and terms of the data."""
    from brainseg_tf.saved_model import shipped, shipped_brain_network

    brain = shipped_brain_network()
    for model in shipped():
        card = model.card
        click.echo(f"{card.name}, version {card.version}")
        click.echo(f"  network    {card.architecture}, {card.parameters:,} parameters, {model.megabytes:.1f} MB")
        click.echo(f"  modality   {', '.join(card.modalities)}")
        data = card.data
        click.echo(
            f"  data       {data.patients} subjects: {len(data.train)} for training, "
            f"{len(data.validation)} for validation, {len(data.test)} for testing"
        )
        if card.metrics:
            network, baseline = card.metrics["network"]["mixture"], card.metrics.get("no network", {})
            paper = card.metrics["paper_iou_slice"]
            click.echo(
                f"  IoU        {_number(network, 'iou_slice')} by slice{f' (paper {paper})' if paper else ''}, "
                f"without network {_number(baseline, 'iou_slice')}"
            )
            interval = dict(zip(("low", "high"), network["dice_interval"], strict=True))
            click.echo(
                f"  Dice       {_number(network, 'dice')} by patient ({_number(interval, 'low')} to "
                f"{_number(interval, 'high')}), without network {_number(baseline, 'dice')}; {card.metrics['patients']}"
            )
        click.echo(f"  terms      {card.terms}")
    found = brain.card
    click.echo(f"{found.name}, version {found.version}")
    click.echo(f"  network    finds the brain in a head, {found.parameters:,} parameters, {brain.megabytes:.1f} MB")
    click.echo(f"  modality   any of {', '.join(found.modalities)}")
    click.echo(f"  data       {found.data.heads} heads with brain masks, {found.data.stripped} skull-stripped brains")
    for group, measured in found.metrics.items():
        click.echo(f"  measured   {group}: {measured}")
    click.echo(f"  terms      {found.terms}")


def _number(metrics: dict[str, Any], name: str) -> str:
    value = metrics.get(name)
    return "not measured" if value is None else f"{value:.3f}"
