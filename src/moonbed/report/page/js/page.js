// What the static part of a page does where scripts run: its tables sort.

import { makeSortable } from "./sort.js";

for (const table of document.querySelectorAll("table[data-sortable]")) makeSortable(table);
