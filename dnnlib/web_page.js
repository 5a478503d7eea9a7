// Buttons that copy the text below them: without this script there are none.
for (const button of document.querySelectorAll("button.copy")) {
  const text = button.nextElementSibling;
  button.hidden = false;
  button.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "copied";
    } catch {  // a browser that does not allow it: the text is selected, to be copied by hand
      getSelection().selectAllChildren(text);
    }
  });
}
