"""A campaign of kills (`rsd chaos`): its blows as values, who deals them, the audit afterwards."""
