"""Text that does harm where it is not shown as text."""

__all__ = ["ALL", "HOSTILE"]

HOSTILE = {
    "script": "<script>alert(1)</script>",
    "style": "</style></pre></textarea><b>bold",
    "link": "[x](javascript:alert(1))",
    "image": "![x](http://evil.example/x.png)",
    "html image": '<img src="http://evil.example/y.png" onerror="alert(1)">',
    "escape": "\x1b[31mred\x1b[0m",
    "direction": "\u202ereversed\u2066",
    "fence": "```\n\n# heading\n\n````",
    "attribute": "\" onmouseover=\"alert(1)' x='",
    "template": "{{ 7 * 191 }}{% raw %}",
    "latex": "\\input{/etc/passwd}$x^2$",
}
ALL = " ".join(HOSTILE.values())
