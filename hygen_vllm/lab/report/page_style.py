# SPDX-License-Identifier: Apache-2.0
"""How the page looks: light, system fonts, one column of sections, usable narrow and on paper."""

CSS = """
:root { color-scheme: light; --ink: #1d2733; --soft: #59636e; --line: #d9dee3; --good: #17733b;
  --bad: #c62828; --ground: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1.25rem 3rem; max-width: 80rem; color: var(--ink);
  background: #fff; font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans",
  Arial, sans-serif; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .3rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .2rem; }
p { margin: .3rem 0 .6rem; max-width: 60rem; }
.lead { font-size: 1.08rem; }
.soft, .notes { color: var(--soft); }
.notes { font-size: .85rem; padding-left: 1.1rem; margin: .5rem 0; }
.warning { border-left: 4px solid #d98a00; background: #fff6e3; padding: .5rem .8rem;
  max-width: none; }
.warning ul { margin: .2rem 0 0; padding-left: 1.2rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .8rem 0;
  font-size: .92rem; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: .6rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .86rem;
  font-variant-numeric: tabular-nums; }
td, th { padding: .4rem .45rem; text-align: right; vertical-align: top; white-space: nowrap; }
thead th { font-weight: 600; color: var(--soft); padding: .2rem .45rem; vertical-align: bottom; }
thead tr:first-child th[colspan] { text-align: center; border-bottom: 1px solid var(--line); }
tbody tr { border-top: 1px solid var(--line); }
th.first { text-align: left; white-space: normal; min-width: 11rem; max-width: 16rem;
  overflow-wrap: anywhere; background: #fff; }
td.text, th.text { text-align: left; }
tr.baseline td, tr.baseline th { color: var(--soft); }
tr.baseline b { font-weight: inherit; }
tr.best td, tr.best th { background: #edf7f1; }
small { display: block; font-size: .82em; font-weight: 400; color: var(--soft); }
tbody .slo b { font-weight: 600; }
.slo .met { color: var(--good); }
.slo .not-met { color: var(--bad); }
.groups.single { display: grid; gap: 0 2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
.charts { display: grid; gap: 1rem 1.2rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); }
.charts.wide { grid-template-columns: repeat(auto-fill, minmax(min(100%, 30rem), 1fr)); }
figure { margin: 0; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans",
  Arial, sans-serif !important; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1.3rem; margin: .3rem 0 .6rem; padding: 0;
  list-style: none; font-size: .88rem; }
.legend svg { vertical-align: middle; margin-right: .4rem; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); font-size: .88rem; }
pre { background: var(--ground); padding: .6rem .8rem; overflow-x: auto; white-space: pre-wrap;
  overflow-wrap: anywhere; font: .85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas,
  "Liberation Mono", monospace; }
@media (max-width: 40rem) {
  body { padding: 1rem .8rem 2rem; }
  h1 { font-size: 1.25rem; }
  dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .3rem; }
  th.first { position: sticky; left: 0; min-width: 9.5rem; max-width: 10rem; z-index: 1; }
}
@media print {
  @page { size: A4 landscape; margin: 12mm; }
  body { padding: 0; max-width: none; font-size: 11px; }
  .scroll { overflow: visible; }
  .groups section, tr, .warning { break-inside: avoid; }
  h2, section > p, .legend { break-after: avoid; }
  .warning, tr.best td, tr.best th, pre { print-color-adjust: exact;
    -webkit-print-color-adjust: exact; }
}
"""
