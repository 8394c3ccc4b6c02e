"""The Playground tab: adapters side by side on one base."""
