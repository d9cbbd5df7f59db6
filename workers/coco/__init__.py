"""COCO: written from the label table, and checked."""
