// What the pages' HTML tells screen readers wrongly, or not at all.
document.addEventListener("DOMContentLoaded", () => {
  for (const summary of document.querySelectorAll("summary:has(.toctree-toggle)")) {
    summary.setAttribute("aria-label", `Pages of ${summary.closest("li").querySelector("a").textContent}`);
  }
  // The button's text, "Search Ctrl+K", says more than its label does.
  for (const button of document.querySelectorAll(".search-button-field")) button.removeAttribute("aria-label");
  // A list without list items is announced as empty.
  for (const list of document.querySelectorAll(".citation-list")) list.removeAttribute("role");
});
