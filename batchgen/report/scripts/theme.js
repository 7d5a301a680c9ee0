"use strict";
// Light or dark, decided before anything is painted: as the reader chose, else as the system has it.

/** The browser's memory; a page that may not have one does without. */
function remembered(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

document.documentElement.dataset.theme =
  remembered("batchgen:theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
