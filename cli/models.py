"""``brainseg-tf models``."""

import click


@click.command(short_help="List the models that come with the package.")
def models() -> None:
    """List the models that come with the package: size, modality, training data, IoU, licence of the data."""
    from brainseg_tf.saved_model import shipped

    for model in shipped():
        card = model.card
        click.echo(f"{card.name}, version {card.version}")
        click.echo(f"  network    {card.architecture}, {card.parameters:,} parameters, {model.megabytes:.1f} MB")
        click.echo(f"  modality   {', '.join(card.modalities)}")
        sides = card.data
        click.echo(
            f"  data       BraTS 2019 layout, {sides.patients} patients: {len(sides.train)} for training, "
            f"{len(sides.validation)} for validation, {len(sides.test)} for testing"
        )
        if card.metrics:
            network, baseline = card.metrics["network"]["own"], card.metrics["no network"]
            paper = card.metrics["paper_iou_slice"]
            click.echo(
                f"  IoU        {network['iou_slice']:.3f} by slice{f' (paper {paper})' if paper else ''}, "
                f"without network {baseline['iou_slice']:.3f}"
            )
            low, high = network["dice_interval"]
            click.echo(
                f"  Dice       {network['dice']:.3f} by patient ({low:.3f} to {high:.3f}), "
                f"without network {baseline['dice']:.3f}; {card.metrics['patients']}"
            )
        click.echo(f"  terms      {card.terms}")
