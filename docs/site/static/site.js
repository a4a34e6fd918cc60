// A page that was opened as a file may not read others: results of a search are then shown without their text.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;
