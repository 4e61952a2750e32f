"""Frame and style of the page: one type scale, light, dark and print, nothing to load."""

from string import Template

CSS = """
:root{color-scheme:light dark;
--sans:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif;
--mono:ui-monospace,"SF Mono",Menlo,Consolas,monospace;
--page:#f4f5f7;--paper:#ffffff;--ink:#1a1f26;--muted:#5d6671;--grid:#dfe3e8;
--blue:#0072b2;--red:#c24e00;--green:#00805c;--purple:#9a3d7b;--sky:#a9cfe6;--tint:#eef4f9}
@media (prefers-color-scheme:dark){:root{--page:#0f1216;--paper:#171b21;--ink:#e8ebef;--muted:#a0a9b4;
--grid:#333a44;--blue:#5fb4e8;--red:#f08c4a;--green:#3fbf95;--purple:#d98bbb;--sky:#2f5f80;--tint:#1d2731}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--page);color:var(--ink);font:400 1rem/1.55 var(--sans)}
main{max-width:66rem;margin:0 auto;padding:2.5rem 1.5rem 4rem}
h1{font-size:2rem;line-height:1.15;letter-spacing:-.02em;margin:0 0 .5rem;overflow-wrap:anywhere}
h2{font-size:1.25rem;line-height:1.3;letter-spacing:-.01em;margin:0 0 .25rem}
p{margin:.25rem 0 1rem;max-width:46rem}
a{color:var(--blue)}
.eyebrow{font-size:.8125rem;font-weight:600;letter-spacing:.08em;text-transform:uppercase;
color:var(--muted);margin:0 0 .5rem}
.lead{font-size:1.125rem;overflow-wrap:anywhere}
.muted,figcaption,small{color:var(--muted)}
section{background:var(--paper);border:1px solid var(--grid);border-radius:12px;padding:1.5rem;
margin:1.25rem 0}
nav{display:flex;flex-wrap:wrap;gap:.25rem 1.25rem;font-size:.875rem;margin:1.25rem 0}
nav a{text-decoration:none}
nav a:hover{text-decoration:underline}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:1px;
background:var(--grid);border:1px solid var(--grid);border-radius:12px;overflow:hidden;margin:1.5rem 0 0;
padding:0}
.tiles div{background:var(--paper);padding:1rem 1.25rem}
.tiles dt{font-size:.8125rem;color:var(--muted)}
.tiles dd{margin:0;font-size:1.625rem;font-weight:600;letter-spacing:-.01em;
font-variant-numeric:tabular-nums;white-space:nowrap}
.tiles dd small{font-size:.875rem;font-weight:400;letter-spacing:0}
.tiles dd.note{font-weight:400;letter-spacing:0;font-size:.8125rem;color:var(--muted);white-space:normal}
p.small{font-size:.875rem;margin-top:.75rem}
figure{margin:1rem 0 0}
figcaption{font-size:.875rem;margin-top:.5rem;max-width:46rem}
svg{display:block;width:100%;height:auto;font-family:var(--sans)}
svg.narrow{display:none}
.scroll{overflow-x:auto;margin:.75rem 0 0;-webkit-overflow-scrolling:touch}
table{border-collapse:collapse;width:100%;font-size:.875rem;font-variant-numeric:tabular-nums}
th,td{padding:.5rem .625rem;text-align:right;vertical-align:baseline;border-bottom:1px solid var(--grid);
white-space:nowrap}
th{font-weight:600;color:var(--muted);font-size:.8125rem;vertical-align:bottom}
th span{display:block;font-weight:400}
th:first-child,td:first-child{text-align:left;padding-left:0}
td:first-child{min-width:8.5rem;max-width:16rem;white-space:normal;overflow-wrap:anywhere}
td.text,th.text{text-align:left}
tbody tr:last-child td{border-bottom:0}
tfoot td{border-top:2px solid var(--grid);border-bottom:0;font-weight:600}
td small{display:block;font-size:.75rem}
tr.best td{background:var(--tint)}
.ok{color:var(--green)}
.above{color:var(--red);font-weight:600}
.bar{display:block;width:9rem}
.bar i{display:block;height:.625rem;border-radius:2px;background:var(--blue);min-width:2px}
.none{border-left:3px solid var(--red);padding:.25rem 0 .25rem .875rem;margin:.75rem 0}
code,pre{font-family:var(--mono);font-size:.8125rem;overflow-wrap:anywhere}
pre{white-space:pre-wrap;margin:.5rem 0 0}
details{margin-top:1rem}
summary{cursor:pointer;color:var(--blue);font-size:.875rem}
dl.facts{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.25rem;font-size:.875rem;
margin:.75rem 0 0}
dl.facts dt{color:var(--muted)}
dl.facts dd{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}
footer{font-size:.8125rem;color:var(--muted)}
@media (max-width:40rem){main{padding:1.25rem .75rem 3rem}section{padding:1rem}h1{font-size:1.5rem}
.lead{font-size:1rem}svg.wide{display:none}svg.narrow{display:block}.tiles{grid-template-columns:1fr 1fr}
.tiles div{padding:.75rem .875rem}.tiles dd{font-size:1.25rem}dl.facts{grid-template-columns:1fr}
dl.facts dd{margin-bottom:.375rem}}
@media print{:root{color-scheme:light;--page:#fff;--paper:#fff;--ink:#000;--muted:#444;--grid:#ccc;
--blue:#0072b2;
--red:#c24e00;--green:#00805c;--purple:#9a3d7b;--sky:#a9cfe6;--tint:#f3f3f3}
@page{margin:14mm}body{font-size:10.5pt}main{max-width:none;padding:0}nav{display:none}
section{border:0;border-radius:0;padding:0;margin:1.25rem 0}figure,tr,.tiles{break-inside:avoid}
h2{break-after:avoid}
svg.wide{display:block}svg.narrow{display:none}.scroll{overflow:visible}th,td{padding:.25rem .375rem}
table{font-size:8.5pt}*{-webkit-print-color-adjust:exact;print-color-adjust:exact}}
"""

FRAME = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
    content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<meta name="generator" content="HAT $version">
<link rel="icon" href="data:,">
<title>$title</title>
<style>$css</style>
</head>
<body>
<main>
$body
</main>
</body>
</html>
"""
)
